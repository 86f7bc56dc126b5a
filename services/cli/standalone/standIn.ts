/** Answers every request with the reason while the store's server is not running. */
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { LxstowError, systemCode } from '../../contract/errors.ts';

export class StandIn implements AsyncDisposable {
  readonly #port: number;
  #server: Promise<Server> | undefined;
  #reason = '';

  constructor(port: number) {
    this.#port = port;
  }

  /** From now on, answers every request with this reason. Throws bad-config if another program uses the port. */
  async say(reason: string): Promise<void> {
    this.#reason = reason;
    this.#server ??= this.#listen();
    try {
      await this.#server;
    } catch (error) {
      this.#server = undefined;
      throw error;
    }
  }

  async #listen(): Promise<Server> {
    const server = createServer((request, response) => {
      request.resume();
      response.writeHead(503, { 'content-type': 'application/xml', connection: 'close' });
      response.end(`<Error><Code>ServiceUnavailable</Code><Message>${escaped(this.#reason)}</Message></Error>`);
    });
    try {
      await once(server.listen(this.#port, '127.0.0.1'), 'listening');
      return server;
    } catch (error) {
      const taken = `a program listens on port ${this.#port}: set s3.endpoint to http://127.0.0.1:ANOTHER_PORT`;
      const message = systemCode(error) === 'EADDRINUSE' ? taken : (error as Error).message;
      throw new LxstowError('bad-config', message, { cause: error });
    }
  }

  /** Stops listening on the port. */
  async [Symbol.asyncDispose](): Promise<void> {
    const server = await this.#server;
    if (!server) return;
    this.#server = undefined;
    const closed = once(server.close(), 'close');
    server.closeAllConnections();
    await closed;
  }
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}
