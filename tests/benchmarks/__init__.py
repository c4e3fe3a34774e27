"""How fast is g2a-archive, beside the best downloaders on the same machine?"""
