"""The log, the one seam through which all roles talk: what every log does, and what opens one."""
