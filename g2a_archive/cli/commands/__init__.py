"""The commands on an archive, a module each: parse, call, show.

`main.COMMANDS` names them; a module is imported when its command is called.
"""
