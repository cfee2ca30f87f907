"""A real browser for the page's tests, and a server whose answers the test writes."""

import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from page.scripted import Scripted

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")


def pytest_collection_modifyitems(items):
    if not (CHROMIUM and DRIVER):
        for item in items:
            if "tests/page" in str(item.path):
                item.add_marker(
                    pytest.mark.skip(reason="needs Debian's chromium and chromium-driver")
                )


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """One for all tests; each opens a tab of its own, whose session storage is empty."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-dev-shm-usage",
        "--window-size=1200,800",
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Page:
    """The page in a tab of a browser."""

    def __init__(self, driver, phone=False):
        self.driver = driver
        driver.switch_to.new_window("tab")
        self.complaints()
        if phone:
            self.cdp("Emulation.setDeviceMetricsOverride",
                     width=390, height=844, deviceScaleFactor=2, mobile=True)  # fmt: skip

    def cdp(self, command, **arguments):
        return self.driver.execute_cdp_cmd(command, arguments)

    def open(self, url, model=None):
        self.driver.get(url + "/")
        if model:
            self.until(lambda: model in self.text("#model"), "the page did not find its server")

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.find(selector).text

    def until(self, condition, message="", seconds=30):
        WebDriverWait(self.driver, seconds, 0.05).until(lambda _: condition(), message)

    def idle(self):
        return self.find("#send").is_displayed() and not self.find("#stop").is_displayed()

    def send(self, text):
        """Types and presses Enter."""
        self.find("#input").send_keys(text + "\n")

    def ask(self, text):
        """Sends, waits for the end of the answer and gives its text."""
        before = len(self.all(".exchange"))
        self.send(text)
        self.until(lambda: len(self.all(".exchange")) > before, "nothing was sent")
        self.until(self.idle, "the answer did not end", 60)
        return self.all(".message.assistant")[-1].text

    def complaints(self):
        """What the browser's console has that is severe; reading empties it."""
        return [line for line in self.driver.get_log("browser") if line["level"] == "SEVERE"]


@pytest.fixture
def tab(browser):
    """Closes the tabs that a test opens."""
    first, *_ = browser.window_handles
    yield browser
    for handle in browser.window_handles:
        if handle != first:
            browser.switch_to.window(handle)
            browser.close()
    browser.switch_to.window(first)


@pytest.fixture
def page(tab):
    return Page(tab)


@pytest.fixture
def phone(tab):
    return Page(tab, phone=True)


@pytest.fixture
def scripted(demo):
    server = Scripted(demo.url)
    yield server
    server.stop()
