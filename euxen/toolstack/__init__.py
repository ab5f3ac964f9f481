"""What libxl and libxenguest do: configurations, kernel images, building, creating and destroying domains."""
