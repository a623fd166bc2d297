"""A fleet of replicas played on a clock of its own, with the code that decides in earnest. See README.md."""
