"""Several processes on one client port: `serve --workers N`.

`supervisor` starts and ends them all; `process` is one worker and its restarts, `launch` and `worker` are that process;
`keeper` is the process that outlives all others, to end the embedded store and to remove the private folder, and
`embedded_store` what the supervisor knows of it; `internal_port`, `unix_http` and `exposition` make one port of all
workers'.
"""
