/** How much of one kind is under way at a gateway, of all clients together and of each. */
import { LxstowError } from '../../contract/errors.ts';

interface ShareLimits {
  most: number;
  mostPerClient: number;
  /** The error where there are `most`, and where one client has its share. */
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

  /** One more of a client, until it is disposed of. Throws gateway-busy. */
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
