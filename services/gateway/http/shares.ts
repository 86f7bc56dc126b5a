/** Limits how many transfers or lists a gateway handles at a time, in total and for each client. */
import { LxstowError } from '../../contract/errors.ts';

interface ShareLimits {
  most: number;
  mostPerClient: number;
  /** Error texts: at `most` in total, and when one client has its share. */
  full: string;
  ownFull: string;
}

export class Shares {
  readonly #limits: ShareLimits;
  readonly #clients = new Map<string, number>();
  #running = 0;

  constructor(limits: ShareLimits) {
    this.#limits = limits;
  }

  get running(): number {
    return this.#running;
  }

  /** Counts one more for a client, until the result is disposed of. Throws gateway-busy. */
  begin(client: string): Disposable {
    const { most, mostPerClient, full, ownFull } = this.#limits;
    if (this.#running >= most) throw new LxstowError('gateway-busy', full);
    const own = this.#clients.get(client) ?? 0;
    if (own >= mostPerClient) throw new LxstowError('gateway-busy', ownFull);
    this.#clients.set(client, own + 1);
    this.#running += 1;
    return {
      [Symbol.dispose]: () => {
        this.#running -= 1;
        const left = (this.#clients.get(client) ?? 1) - 1;
        if (left > 0) this.#clients.set(client, left);
        else this.#clients.delete(client);
      },
    };
  }
}
