"""One trainer a learning scheme, on MONAI's workflow."""
