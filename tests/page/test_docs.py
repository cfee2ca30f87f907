"""/docs in a real browser."""

import pytest


@pytest.fixture
def rows(demo, page):
    """Names of the members that the page shows, and what it says of each."""
    page.driver.get(demo.url + "/docs")
    page.until(lambda: page.all("tr"))
    found = page.js(
        """return [...document.querySelectorAll("tr")].map(
            (row) => [...row.querySelectorAll("td")].map((cell) => cell.textContent));"""
    )
    return {name: (kind, help) for name, kind, help in found}


def test_it_shows_every_endpoint_and_its_members(rows, page):
    titles = [title.text for title in page.all("h2")]
    assert "POST /v1/chat/completions" in titles and "GET /v1/models/{model}" in titles
    assert rows["n"][0] == "whole number 1 to 128"
    assert rows["top_p"][0] == "number above 0 to 1"
    assert rows["stop"][0] == "text, or list of text, at most 64"
    assert rows["messages"][0].endswith("(required)")
    assert "stream_options.include_usage" in rows
    assert all(help for _, help in rows.values()) or rows["response_format.type"]
    assert not page.complaints()
