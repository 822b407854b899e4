"""Methods compared on equal terms: the cells, how they are run, and the table that comes of them."""
