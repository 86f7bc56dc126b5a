/** Finds out what listens on the port of standalone's own nats-server. */
import { connect } from 'node:net';
import { LxstowError } from '../../contract/errors.ts';

/** A NATS server sends its INFO line at once. */
const introductionMs = 2000;
const longestIntroduction = 64 * 1024;

interface Introduction {
  /** Undefined if it is not a NATS server. */
  name?: string | undefined;
  version?: string | undefined;
}

/** What listens on the port; undefined if nothing does. A NATS server sends its name before a client sends anything. */
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
      if (said.includes('\n') || said.length > longestIntroduction) end(introductionIn(said));
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

/** The error if something else uses the port, another user's program if `user` is given: jobs and secrets must not go to another NATS that happens to listen there. */
export function strange(port: number, { name, version }: Introduction, user: number | undefined): LxstowError {
  const what =
    user !== undefined
      ? `a program of another user (uid ${user}) listens on port ${port}: end it, or give standalone's nats-server another port with --nats-port`
      : name === undefined
        ? `a program that is not a NATS server listens on port ${port}: give standalone's nats-server another port with --nats-port`
        : `a NATS server (${version}) that is not standalone's own listens on port ${port}. To use it, set nats.servers: [nats://127.0.0.1:${port}]; to run another one, choose a port with --nats-port`;
  return new LxstowError('bad-config', what);
}
