/** React hooks: components that show a room render when it changes, and only then. */
import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";
import type { Client, Status } from "./client.js";
import type { Room } from "./room.js";
import type { JoinOptions, RoomTypes, Snapshot } from "./room-types.js";
import type { Member } from "./roster.js";

/** How many components join and watch a room: it is left when the last one of them has gone for good. */
const uses = new WeakMap<Room, { joins: number; watches: number }>();

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
 * one join.
 */
export function useRoom<T extends RoomTypes = RoomTypes>(
  client: Client,
  name: string,
  options: Omit<JoinOptions<T>, "signal"> & { watch?: boolean } = {},
): Room<T> {
  const { watch = false, ...wanted } = options;
  const [room, setRoom] = useState(() => client.room<T>(name));
  const latest = useRef(wanted);
  latest.current = wanted;
  const current = room.name === name ? room : client.room<T>(name);
  useEffect(() => {
    const entered = watch ? client.watch<T>(name, latest.current) : client.join<T>(name, latest.current);
    const key = entered as unknown as Room;
    const use = uses.get(key) ?? { joins: 0, watches: 0 };
    uses.set(key, use);
    const kind = watch ? "watches" : "joins";
    use[kind] += 1;
    setRoom(entered);
    return () => {
      use[kind] -= 1;
      // After this turn: whoever mounts again in it goes on.
      setTimeout(() => {
        if (use.joins + use.watches === 0) void entered.leave();
        else if (use.joins === 0) entered.hide();
      });
    };
  }, [client, name, watch]);
  const state = JSON.stringify(wanted.state);
  useEffect(() => {
    if (!watch && latest.current.state !== undefined && current.isEntered) current.join(latest.current);
  }, [state, watch, current]);
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
