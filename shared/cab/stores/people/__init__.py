"""What is remembered of people beside what they decided: `departures`, what their identity provider said of them."""
