"""The dashboard: a run as it goes, or went, over HTTP. Reads the run's folder; the one thing it does is to stop a run.

answers.py                what clients get
routes.py                 the endpoints, mounted by a served model's API and by the dashboard's own process
reading.py                one run's folder, looked at again and again
  fixed.py  now.py        what does not change; how it is now (figures.py)
  columns.py  series.py   metrics.jsonl as columns, read on from where it grew; curves of them
  events.py  logs.py      what happened; the logs of all nodes, merged by time
stopping.py               ending the run on request
served.py                 the same, in the process of the API of a served model
app.py  process.py        the application of its own, and its process
"""
