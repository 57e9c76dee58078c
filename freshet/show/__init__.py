"""Reports and views: pages for a browser, lines for a terminal."""
