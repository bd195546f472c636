"""Files, folders, locks and scratch space, on disks and in object stores."""
