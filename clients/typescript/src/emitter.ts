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
}

/** Report what a listener threw where the platform shows uncaught errors: it ends nothing else. */
export function report(error: unknown): void {
  if (typeof reportError === "function") reportError(error);
  else console.error(error);
}

/** Typed events. A listener that throws, or rejects, is reported and stops no other. */
export class Emitter<Events extends object> {
  #registrations = new Map<keyof Events, Set<Registration>>();

  /** Call `listener` with every event of this type; returns a function that ends it. */
  on<Type extends keyof Events>(
    type: Type,
    listener: (event: Events[Type]) => unknown,
    { once = false, signal }: ListenOptions = {},
  ): () => void {
    const registration: Registration = { listener, once };
    const end = () => {
      this.#registrations.get(type)?.delete(registration);
      signal?.removeEventListener("abort", end);
    };
    if (signal?.aborted) return end;
    signal?.addEventListener("abort", end);
    const registrations = this.#registrations.get(type) ?? new Set();
    this.#registrations.set(type, registrations.add(registration));
    return end;
  }

  /** Call `listener` with the next event of this type, or return a promise of it. */
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
    return new Promise((resolve, reject) => {
      const signal = listener?.signal;
      if (signal?.aborted) return reject(signal.reason);
      signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
      this.on(type, resolve, { ...listener, once: true });
    });
  }

  /** @internal Whether anybody listens. */
  get isHeard(): boolean {
    return [...this.#registrations.values()].some(({ size }) => size > 0);
  }

  /** @internal Call everybody who listens for this. */
  protected emit<Type extends keyof Events>(type: Type, event: Events[Type]): void {
    const registrations = this.#registrations.get(type);
    for (const registration of [...(registrations ?? [])]) {
      if (!registrations?.has(registration)) continue; // ended by a listener before it
      if (registration.once) registrations.delete(registration);
      try {
        const result = (registration.listener as (event: Events[Type]) => unknown)(event);
        if (result instanceof Promise) result.catch(report);
      } catch (error) {
        report(error);
      }
    }
  }
}
