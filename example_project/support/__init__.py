"""The support desk of Hedgewren, who sell bird feeders with a camera."""
