/** What has to compile: `npm run check` is the test. */
import { connect } from "../src/index.js";

interface MyState {
  name: string;
  page?: number;
}
interface Chat {
  State: MyState;
  Info: { name: string };
  Message: { text: string };
}

export async function chat(): Promise<string | undefined> {
  const client = connect("/ws");
  const room = client.join<Chat>("x", { state: { name: "Ada" } });
  await room.patchState({ page: 2 });
  await room.setState({ name: "Bob" }, { ifVersion: 1 });
  // @ts-expect-error a state without its name
  await room.setState({ page: 2 });
  // @ts-expect-error a key that the state does not have
  await room.patchState({ colour: "red" });
  room.on("message", ({ data }) => data.text);
  const untyped = client.join("y", { state: { anything: 1 } });
  untyped.others.map(({ state }) => state["anything"]);
  return room.me?.state.name;
}
