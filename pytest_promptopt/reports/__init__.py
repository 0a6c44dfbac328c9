"""Reports: what a run tells its reader, on a terminal first."""
