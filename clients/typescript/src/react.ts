/** React hooks: components that show a room render when it changes, and only then. */
import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";
import type { Client, Status } from "./client.js";
import type { Room } from "./room.js";
import type { JoinOptions, RoomTypes, Snapshot, UntypedRoom } from "./room-types.js";
import type { Member } from "./roster.js";

/** How many components join and watch a room: it is left when the last one of them has gone for good. */
const uses = new WeakMap<Room, { joins: number; watches: number; isKept: boolean }>();

/** The client's status: connecting, connected, waiting, stopped. */
export function useStatus(client: Client): Status {
  return useSyncExternalStore(
    useCallback((changed) => client.on("status", changed), [client]),
    () => client.status,
    () => client.status,
  );
}

/**
 * Be in a room while a component that asks for it is there: as a member while one does without `watch`. A room has one
 * state, the last that a component gave; a new one (compared by value) is an update. StrictMode's mount, unmount, mount is
 * one join. A room that the application had entered itself is not left.
 */
export function useRoom<T extends RoomTypes = UntypedRoom>(
  client: Client,
  name: string,
  options: Omit<JoinOptions<T>, "signal"> & { watch?: boolean } = {},
): Room<T> {
  const { watch = false, ...wanted } = options;
  const [held, setHeld] = useState(() => ({ client, room: client.room<T>(name) }));
  const latest = useRef(wanted);
  latest.current = wanted;
  const current = held.client === client && held.room.name === name ? held.room : client.room<T>(name);
  useEffect(() => {
    const room = client.room<T>(name);
    const key = room as unknown as Room;
    const use = uses.get(key) ?? { joins: 0, watches: 0, isKept: room.isEntered };
    uses.set(key, use);
    const enter = () => (watch ? room.watch(latest.current) : room.join(latest.current));
    enter();
    // What ends a client ends its rooms; where it is connected again, the component is still there.
    let hasStopped = client.status.state === "stopped";
    const end = client.on("status", ({ state }) => {
      if (state === "stopped") hasStopped = true;
      else if (state === "connected" && hasStopped) {
        hasStopped = false;
        enter();
      }
    });
    const kind = watch ? "watches" : "joins";
    use[kind] += 1;
    setHeld({ client, room });
    return () => {
      end();
      use[kind] -= 1;
      // After this turn: whoever mounts again in it goes on.
      setTimeout(() => {
        if (use.joins + use.watches === 0) uses.delete(key);
        if (use.isKept || use.joins > 0) return;
        if (use.watches > 0) room.hide();
        else void room.leave();
      });
    };
  }, [client, name, watch]);
  const state = JSON.stringify(wanted.state);
  useEffect(() => {
    if (!watch && latest.current.state !== undefined && current.isEntered) current.join(latest.current);
  }, [state, watch, current]);
  const mode = useRef(wanted.mode);
  useEffect(() => {
    if (mode.current === wanted.mode) return;
    mode.current = wanted.mode;
    if (current.isEntered) watch ? current.watch(latest.current) : current.join(latest.current);
  }, [wanted.mode, watch, current]);
  return current;
}

/** The room as it is now; a render for each change of it. */
export function useSnapshot<T extends RoomTypes>(room: Room<T>): Snapshot<T> {
  return useOf(room, () => room.snapshot);
}

/** Everybody else; a render when one of them comes, changes or goes. */
export function useOthers<T extends RoomTypes>(room: Room<T>): readonly Member<T["State"], T["Info"]>[] {
  return useOf(room, () => room.others);
}

/** This client's own entry, null before it is there; a render when it changes. */
export function useSelf<T extends RoomTypes>(room: Room<T>): Member<T["State"], T["Info"]> | null {
  return useOf(room, () => room.me);
}

function useOf<T extends RoomTypes, Value>(room: Room<T>, read: () => Value): Value {
  return useSyncExternalStore(useCallback((changed) => room.on("change", changed), [room]), read, read);
}
