"""The sections of the report below the comparison, a file for each kind; `order` lists them."""
