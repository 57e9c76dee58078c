"""Reports and live views, for a browser and for a terminal."""
