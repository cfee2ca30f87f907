"""The web page in a real browser: chat streams, the experts light up, a phone can read it."""

import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver"
)


def open_browser(profile, width, height):
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
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


@pytest.fixture
def browser(tmp_path):
    driver = open_browser(tmp_path, 1200, 800)
    yield driver
    driver.quit()


def ask(browser, text):
    browser.find_element(By.ID, "input").send_keys(text)
    browser.find_element(By.ID, "send").click()
    WebDriverWait(browser, 60).until(
        lambda b: (
            b.find_element(By.ID, "send").text == "Send"
            and b.find_elements(By.CSS_SELECTOR, ".message.assistant")
            and b.find_elements(By.CSS_SELECTOR, ".message.assistant")[-1].text
        )
    )
    return browser.find_elements(By.CSS_SELECTOR, ".message.assistant")[-1].text


def test_chat_streams_and_experts_light_up(demo, browser):
    browser.get(demo.url + "/")
    WebDriverWait(browser, 20).until(lambda b: "demo" in b.find_element(By.ID, "model").text)
    assert len(ask(browser, "Who are you?")) > 10
    WebDriverWait(browser, 20).until(
        lambda b: "8 experts, top 2" in b.find_element(By.ID, "summary").text
    )
    count_colours = """const c = document.getElementById("experts");
        const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        const seen = new Set();
        for (let i = 0; i < d.length; i += 4) seen.add(d.slice(i, i + 3).join());
        return seen.size;"""
    # The picture follows within a second.
    WebDriverWait(browser, 10).until(
        lambda b: b.execute_script(count_colours) > 5,
        "the picture shows no differences between experts",
    )
    assert "tokens/s" in browser.find_element(By.ID, "speed").text
    second = ask(browser, "Thank you!")
    assert len(browser.find_elements(By.CSS_SELECTOR, ".message.user")) == 2 and second
    severe = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert not severe, severe


def test_nothing_is_fetched_from_elsewhere(demo, browser):
    browser.get(demo.url + "/")
    WebDriverWait(browser, 20).until(lambda b: "demo" in b.find_element(By.ID, "model").text)
    names = browser.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert names and all(name.startswith(demo.url) for name in names), names


def test_markup_in_text_stays_text(demo, browser):
    browser.get(demo.url + "/")
    WebDriverWait(browser, 20).until(lambda b: "demo" in b.find_element(By.ID, "model").text)
    ask(browser, "<img src=x onerror=document.title='owned'>")
    assert browser.title == "moesaic"


def test_a_phone_can_read_it(demo, tmp_path):
    driver = open_browser(tmp_path, 390, 844)
    try:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True},
        )
        driver.get(demo.url + "/")
        WebDriverWait(driver, 20).until(lambda b: "demo" in b.find_element(By.ID, "model").text)
        wide = driver.execute_script(
            "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )
        assert not wide, "the page scrolls sideways on a phone"
        size = driver.execute_script(
            "return parseFloat(getComputedStyle(document.getElementById('input')).fontSize)"
        )
        assert size >= 16, "phones zoom into inputs with smaller text"
    finally:
        driver.quit()
