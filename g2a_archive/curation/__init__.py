"""An archive's later life: recordings are handed over, taken out, or brought together.

`bag` hands recordings over as a BagIt bag (`bagit` knows the format, `selection` what goes in).
"""
