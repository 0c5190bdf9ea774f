"""Ways into a target, one small file each; every one may fail alone."""
