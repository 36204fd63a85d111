"""Reports: run folders become one table, figures and a page that opens offline."""
