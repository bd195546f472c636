"""Files, folders, locks and scratch databases, on local disks and in object stores."""
