"""What samples are to show: values of conditions, from users or held-out examples."""
