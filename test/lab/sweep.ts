// node test/lab/sweep.ts [folder]: removes one lab's folder with all that runs and is mounted in it, or those of
// all labs whose process is gone. A process that ends runs it for its own labs; a person may at any time.
import { removeFolder, sweep } from './folder.ts';

const [folder] = process.argv.slice(2);
process.on('SIGINT', () => console.error('lab: still tidying up')); // a second Ctrl-C is for whoever waits for this
await (folder ? removeFolder(folder) : sweep(console.error));
