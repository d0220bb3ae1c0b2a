"""The study "do priors help?": networks with and without priors, on patients that neither they nor their prior saw."""
