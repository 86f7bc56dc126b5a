/** Limits how many transfers, lists or requests a gateway handles at a time, in total and for each client. */
import { type ErrorCode, LxstowError } from '../../contract/errors.ts';

interface ShareLimits {
  most: number;
  mostPerClient: number;
  /** Error texts: at `most` in total, and when one client has its share. */
  full: string;
  ownFull: string;
  /** Default: gateway-busy. */
  code?: ErrorCode;
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

  /** Counts one more for a client, until the result is disposed of. Throws the limits' code. */
  begin(client: string): Disposable {
    const { most, mostPerClient, full, ownFull, code = 'gateway-busy' } = this.#limits;
    if (this.#running >= most) throw new LxstowError(code, full);
    const own = this.#clients.get(client) ?? 0;
    if (own >= mostPerClient) throw new LxstowError(code, ownFull);
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
