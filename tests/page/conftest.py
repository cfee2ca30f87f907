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


class Page:
    """The page in a browser."""

    def __init__(self, profile, width=1200, height=800, phone=False):
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
            f"--window-size={width},{height}",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        if phone:
            self.cdp("Emulation.setDeviceMetricsOverride",
                     width=width, height=height, deviceScaleFactor=2, mobile=True)  # fmt: skip

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
def open_page(tmp_path):
    """Opens browsers of any size; closes them after the test."""
    pages = []

    def start(**size):
        pages.append(Page(tmp_path / str(len(pages)), **size))
        return pages[-1]

    yield start
    for page in pages:
        page.driver.quit()


@pytest.fixture
def page(open_page):
    return open_page()


@pytest.fixture
def phone(open_page):
    return open_page(width=390, height=844, phone=True)


@pytest.fixture
def scripted(demo):
    server = Scripted(demo.url)
    yield server
    server.stop()
