from browsers import browser, open_file, shared_page

__all__ = ["browser", "open_file", "shared_page"]
