import { connect } from "@presence-server/client";
import { useOthers, useRoom, useSelf, useStatus } from "@presence-server/client/react";
import { StrictMode, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";

interface Desk {
  State: { away: boolean };
  Info: { name: string };
  Message: string;
}

const asked = new URLSearchParams(location.search);
const name = asked.get("name") ?? "Guest";
const client = connect(asked.get("server") ?? "ws://127.0.0.1:8080/ws", { user: name.toLowerCase(), info: { name } });

function Connection() {
  const status = useStatus(client);
  if (status.state === "connected") return null;
  return <p role="status">{status.state === "connecting" ? "connecting" : `${status.state}: ${status.reason}`}</p>;
}

function People() {
  const [away, setAway] = useState(false);
  const [last, setLast] = useState("");
  const room = useRoom<Desk>(client, "react-example", { state: { away } });
  const self = useSelf(room);
  const others = useOthers(room);
  useEffect(() => room.on("message", ({ user, data }) => setLast(`${user}: ${data}`)), [room]);
  return (
    <>
      <ul aria-label="Who is here">
        {[...(self ? [self] : []), ...others].map(({ cid, info, state }) => (
          <li key={cid} title={info.name} data-away={state.away}>{info.name.slice(0, 2)}</li>
        ))}
      </ul>
      <label><input type="checkbox" checked={away} onChange={({ target }) => setAway(target.checked)} /> Away</label>{" "}
      <button onClick={() => room.publish("hello", { wait: true }).catch(({ message }) => setLast(`not sent: ${message}`))}>Wave</button>
      <p aria-live="polite">{last}</p>
    </>
  );
}

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <Connection />
    <People />
  </StrictMode>,
);
