// A TLS client of Node's: connects once, sends a line, prints what it negotiated and what came back, each a JSON line.
// Arguments: host, port, group, identity folder, server name.
'use strict';
const fs = require('fs');
const tls = require('tls');

const [host, port, group, folder, servername] = process.argv.slice(2);
const say = (facts) => console.log(JSON.stringify(facts));
const socket = tls.connect({
  host,
  port: Number(port),
  servername,
  cert: fs.readFileSync(`${folder}/tls.pem`),
  key: fs.readFileSync(`${folder}/tls.key`),
  ca: fs.readFileSync(`${folder}/ca.pem`),
  minVersion: 'TLSv1.3',
  ecdhCurve: group,
});
socket.on('secureConnect', () => {
  say({
    event: 'connected',
    authorized: socket.authorized,
    protocol: socket.getProtocol(),
    cipher: socket.getCipher().name,
    group: socket.getEphemeralKeyInfo().name,
    names: socket.getPeerCertificate().subjectaltname,
  });
  socket.end('from node\n');
});
socket.on('data', (data) => say({ event: 'data', text: data.toString() }));
socket.on('error', (error) => say({ event: 'error', code: error.code, message: error.message }));
