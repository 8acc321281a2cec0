"""Photo libraries: the keywords that photo programs keep in photos and in XMP files beside them."""
