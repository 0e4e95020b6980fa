"""What acts: specs, networks, generative samplers, policies and control. Imports nothing else of the house."""
