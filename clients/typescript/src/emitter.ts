/** How a listener is registered. */
export interface ListenOptions {
  /** Call it for the next event only. */
  once?: boolean;
  /** Ends it when aborted. */
  signal?: AbortSignal;
}

interface Registration {
  listener: (event: never) => unknown;
  once: boolean;
  end: () => void;
}

/** Report what a listener threw where the platform shows uncaught errors: it ends nothing else. */
export function report(error: unknown): void {
  if (typeof reportError === "function") reportError(error);
  else console.error(error);
}

/**
 * Typed events. A listener that throws, or rejects, is reported and stops no other; what a listener causes is heard after
 * what it heard.
 */
export class Emitter<Events extends object> {
  #registrations = new Map<keyof Events, Set<Registration>>();
  /** Rejects each promise of an event. */
  #awaited = new Set<(error: unknown) => void>();
  /** @internal Why there will be no event any more, if there will not. */
  protected over: Error | null = null;
  /** What is to be heard next; null while nothing is. */
  #queue: (() => void)[] | null = null;

  /** Call `listener` with every event of this type; returns a function that ends it. */
  on<Type extends keyof Events>(
    type: Type,
    listener: (event: Events[Type]) => unknown,
    { once = false, signal }: ListenOptions = {},
  ): () => void {
    const registrations = this.#registrations.get(type) ?? new Set();
    const end = () => {
      registrations.delete(registration);
      signal?.removeEventListener("abort", end);
      this.heard();
    };
    const registration: Registration = { listener, once, end };
    if (signal?.aborted) return end;
    signal?.addEventListener("abort", end);
    this.#registrations.set(type, registrations.add(registration));
    this.heard();
    return end;
  }

  /**
   * Call `listener` with the next event of this type, or return a promise of it, which rejects with `ended` where there
   * will be none: the room was left, or the client has stopped.
   */
  once<Type extends keyof Events>(type: Type, options?: ListenOptions): Promise<Events[Type]>;
  once<Type extends keyof Events>(
    type: Type,
    listener: (event: Events[Type]) => unknown,
    options?: ListenOptions,
  ): () => void;
  once<Type extends keyof Events>(
    type: Type,
    listener?: ((event: Events[Type]) => unknown) | ListenOptions,
    options?: ListenOptions,
  ): Promise<Events[Type]> | (() => void) {
    if (typeof listener === "function") return this.on(type, listener, { ...options, once: true });
    const signal = listener?.signal;
    return new Promise((resolve, reject) => {
      const settle = <Value>(act: (value: Value) => void) => (value: Value) => {
        end();
        this.#awaited.delete(fail);
        signal?.removeEventListener("abort", aborted);
        act(value);
      };
      const fail = settle(reject);
      const aborted = () => fail(signal!.reason);
      const end = this.on(type, settle(resolve));
      this.#awaited.add(fail);
      signal?.addEventListener("abort", aborted);
      if (signal?.aborted) aborted();
      else if (this.over !== null) fail(this.over);
    });
  }

  /** @internal Whether anybody listens. */
  get isHeard(): boolean {
    return [...this.#registrations.values()].some(({ size }) => size > 0);
  }

  /** @internal Called whenever somebody begins to listen or ends it. */
  protected heard(): void {}

  /** @internal Reject what waits for an event, other than for those that are told of in this turn. */
  protected abandon(error: Error): void {
    for (const fail of this.#awaited) queueMicrotask(() => fail(error));
  }

  /** @internal Call everybody who listens for this. */
  protected emit<Type extends keyof Events>(type: Type, event: Events[Type]): void {
    const isFirst = this.#queue === null;
    const queue = (this.#queue ??= []);
    queue.push(() => this.#tell(type, event));
    if (!isFirst) return;
    for (const tell of queue) tell(); // also what is added meanwhile
    this.#queue = null;
  }

  #tell<Type extends keyof Events>(type: Type, event: Events[Type]): void {
    const registrations = this.#registrations.get(type);
    for (const registration of [...(registrations ?? [])]) {
      if (!registrations?.has(registration)) continue; // ended by a listener before it
      if (registration.once) registration.end();
      try {
        const result = (registration.listener as (event: Events[Type]) => unknown)(event);
        if (result instanceof Promise) result.catch(report);
      } catch (error) {
        report(error);
      }
    }
  }
}
