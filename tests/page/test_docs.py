"""/docs in a real browser."""

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from test_page import browser, pytestmark  # noqa: F401


@pytest.fixture
def rows(demo, browser):  # noqa: F811
    """Names of the members that the page shows, and what it says of each."""
    browser.get(demo.url + "/docs")
    WebDriverWait(browser, 20).until(lambda b: b.find_elements(By.TAG_NAME, "tr"))
    found = [
        [cell.text for cell in row.find_elements(By.TAG_NAME, "td")]
        for row in browser.find_elements(By.TAG_NAME, "tr")
    ]
    return {name: (kind, help) for name, kind, help in found}


def test_it_shows_every_endpoint_and_its_members(rows, browser):  # noqa: F811
    titles = [title.text for title in browser.find_elements(By.TAG_NAME, "h2")]
    assert "POST /v1/chat/completions" in titles and "GET /v1/models/{model}" in titles
    assert rows["n"][0] == "whole number 1 to 128"
    assert rows["top_p"][0] == "number above 0 to 1"
    assert rows["stop"][0] == "text, or list of text, at most 64"
    assert rows["messages"][0].endswith("(required)")
    assert "stream_options.include_usage" in rows
    assert all(help for _, help in rows.values()) or rows["response_format.type"]
    problems = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not problems
