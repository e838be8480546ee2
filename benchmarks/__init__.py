"""Measurements that anyone can repeat, side by side with a peer where there is one."""
