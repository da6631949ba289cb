"""`secondsight serve`: an event log over HTTP, and the web page on top. Only reads."""
