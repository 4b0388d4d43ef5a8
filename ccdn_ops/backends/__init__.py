"""The implementations of the operators, one folder for each way to compute them."""
