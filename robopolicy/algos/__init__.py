"""Rules that improve a policy by trial, one file each; ``robopolicy.algos.registry`` lists them."""
