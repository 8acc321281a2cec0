"""One reader for each form of label table, all into one data set."""
