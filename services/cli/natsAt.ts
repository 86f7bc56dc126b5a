/** Who listens on a port of this machine where standalone's own nats-server is expected. */
import { connect } from 'node:net';
import { LxstowError } from '../contract/errors.ts';

/** A NATS server speaks at once. */
const introductionMs = 2000;

export interface Introduction {
  /** Undefined: no NATS server. */
  name?: string | undefined;
  version?: string | undefined;
}

/** Who listens there; undefined: nobody. A NATS server tells its name before it wants to know anything. */
export function introduced(port: number): Promise<Introduction | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host: '127.0.0.1', port, timeout: introductionMs });
    let said = '';
    let there = false;
    const end = (introduction: Introduction | undefined) => {
      socket.destroy();
      resolve(introduction);
    };
    socket.on('connect', () => {
      there = true;
    });
    socket.setEncoding('utf8').on('data', (text: string) => {
      said += text;
      if (said.includes('\n')) end(introductionIn(said));
    });
    socket.on('timeout', () => end({}));
    for (const event of ['error', 'close']) socket.on(event, () => end(there ? {} : undefined));
  });
}

function introductionIn(said: string): Introduction {
  try {
    const { server_name: name, version } = JSON.parse(/^INFO (\{.*\})\s*$/m.exec(said)?.[1] ?? '{}');
    return { name, version };
  } catch {
    return {};
  }
}

/** Jobs and secrets are not for whatever NATS happens to be there. */
export function strange(port: number, { name, version }: Introduction): LxstowError {
  const what =
    name === undefined
      ? `something that is no NATS server listens on port ${port}: give standalone's own another one (--nats-port)`
      : `a NATS server (${version}) that is not standalone's own listens on port ${port}. To use it, configure nats.servers: [nats://127.0.0.1:${port}]; to have one of its own beside it, say --nats-port`;
  return new LxstowError('bad-config', what);
}
