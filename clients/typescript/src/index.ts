/** A client of presence-server: one connection, any number of rooms. */
export { Client, connect, type ClientEvents, type ConnectOptions, type Status } from "./client.js";
export type { ListenOptions } from "./emitter.js";
export { type FailureCode, PresenceError, StopError } from "./errors.js";
export type { Mode, Published, Signal, Welcome } from "./messages.js";
export { Room } from "./room.js";
export type { JoinOptions, RoomEvent, RoomEvents, RoomTypes, Snapshot, UntypedRoom } from "./room-types.js";
export type { Changes, Departed, Member, User } from "./roster.js";
export type { TokenStorage } from "./token.js";
