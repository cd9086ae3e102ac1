"""Keys and values of live sequences: rows of buckets, the views that models see, the seam."""
