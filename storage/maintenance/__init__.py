"""The store as a whole: summary, verify, repair, gc, export."""
