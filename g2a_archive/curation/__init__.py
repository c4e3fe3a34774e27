"""An archive's later life: recordings are handed over, taken out, or brought together.

`remove` takes recordings out for good. `bag` hands some over as a BagIt bag (`bagit` knows the
format, `selection` what goes in).
`merge` takes other archives into one (`merge_work` a page of recordings; `merge_source` is one of
the archives, `merge_rows` knows what two catalogues say of a recording, `merge_files` brings files
over, `merge_report` tells how it went).
"""
