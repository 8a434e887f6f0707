def write_report(paths, target): pass
