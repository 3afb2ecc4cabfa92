"""One file per competitor; see ``Contestant`` for what each has to do."""
